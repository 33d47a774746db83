from omni.text.tokenizer import ByteTokenizer


def test_any_text_comes_back():
    tokenizer = ByteTokenizer()
    for text in ("", "a low tone", "naïve 你好 😀\n\0"):
        ids = tokenizer.encode(text)
        assert all(0 <= token < 256 for token in ids)
        assert tokenizer.decode([tokenizer.bos, *ids, tokenizer.bos]) == text


def test_half_a_character_is_marked_not_fatal():
    assert ByteTokenizer().decode([0x61, 0xC3]) == "a\ufffd"

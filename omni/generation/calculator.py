"""The one tool a nanochat model knows: a calculator, without eval.

A model writes an expression between <|python_start|> and <|python_end|>; what comes out is written behind it.
"""

import ast
import math
import operator
import warnings

MAX_CHARACTERS = 256
MAX_BITS = 512
"""Of a whole number. With the length of the text, it bounds time and memory: 9**9**9 is refused before it is begun."""

BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class NotAnExpressionError(Exception):
    """Something the calculator does not do."""


def calculate(text: str) -> str | None:
    """The value of arithmetic (+ - * / // % ** and brackets), or of `"text".count("x")`; None for anything else."""
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        return None
    if not {'"', "'"} & set(text):
        text = text.replace(",", "")  # 1,000 is a number
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a parser's advice on the model's spelling
            node = ast.parse(text, mode="eval").body
        return str(count(node) if isinstance(node, ast.Call) else evaluate(node))
    except (NotAnExpressionError, SyntaxError, ValueError, ArithmeticError, MemoryError, RecursionError):
        return None


def evaluate(node: ast.expr) -> int | float:
    """The value of a tree of numbers."""
    if isinstance(node, ast.Constant):
        return check(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
        return UNARY[type(node.op)](evaluate(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        left, right = evaluate(node.left), evaluate(node.right)
        if isinstance(node.op, ast.Pow):
            check_power(left, right)
        return check(BINARY[type(node.op)](left, right))
    raise NotAnExpressionError


def check_power(base: float, exponent: float) -> None:
    """Refuse a power that would take long to compute; of whole numbers, only one above 1 grows."""
    if type(base) is type(exponent) is int and abs(base) > 1 and abs(exponent) * base.bit_length() > MAX_BITS:
        raise NotAnExpressionError


def check(value: object) -> int | float:
    """The value, if it is a number of reasonable size."""
    if type(value) is int and value.bit_length() <= MAX_BITS:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    raise NotAnExpressionError


def count(call: ast.Call) -> int:
    """`"strawberry".count("r")`, and no other method."""
    match call:
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str(text)), attr="count"),
            args=[ast.Constant(value=str(part))],
            keywords=[],
        ):
            return text.count(part)
    raise NotAnExpressionError

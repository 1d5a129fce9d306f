"""Conditions on rows, as in `--where "variant == 'no_drift' and seed < 3"`.

The grammar is Python's: column names, texts in quotes, numbers, True, False and None; `==`, `!=`, `<`,
`<=`, `>`, `>=`, `in`, `not in`, `is None`; `and`, `or`, `not`, parentheses. Nothing is executed: the
condition is parsed, and its parts are computed by pyarrow. A comparison with a missing value is
neither true nor false, so the row is left out, also under `not`.
"""

from __future__ import annotations

import ast
import re
from functools import reduce

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ablate.base.errors import ResultsError, did_you_mean

EXAMPLE = "variant == 'no_drift' and seed < 3"
_COMPARE = {
    **{ast.Eq: pc.equal, ast.NotEq: pc.not_equal, ast.Lt: pc.less, ast.LtE: pc.less_equal},
    **{ast.Gt: pc.greater, ast.GtE: pc.greater_equal},
}


def rows_where(rows: pd.DataFrame, condition: str) -> pd.Series:
    """Return which rows of a table fit a condition, as a boolean series with the table's index.

    Args:
        rows: A table, as `ablate.store.tables.read` returns it.
        condition: As in `variant == 'no_drift' and seed < 3`. `'x' in tags` is true if x is one of
            the values of a column that lists them with commas.

    Raises:
        ResultsError: It is not a condition, names an unknown column, or compares unlike types.
    """
    try:
        fits = _Condition(rows, condition).truth(ast.parse(condition.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError, pa.ArrowException) as error:
        raise ResultsError(f"--where {condition}: not a condition; write it as in {EXAMPLE!r}") from error
    return pd.Series(fits.fill_null(False).to_numpy(zero_copy_only=False), rows.index, dtype=bool)


class _Condition:
    def __init__(self, rows: pd.DataFrame, text: str) -> None:
        self.rows, self.text = rows, text

    def truth(self, node: ast.expr) -> pa.Array:
        """Return whether a part of the condition is true, for each row; null: unknown."""
        if isinstance(node, ast.BoolOp):
            return reduce(pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene, map(self.truth, node.values))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return pc.invert(self.truth(node.operand))
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            return reduce(pc.and_kleene, map(self.compare, node.ops, sides, sides[1:]))
        value = self.value(node)
        if not pa.types.is_boolean(value.type):
            raise self.refuse(f"{ast.unparse(node)} is compared with nothing")
        return value

    def compare(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> pa.Array:
        """Return whether a comparison is true, for each row."""
        if isinstance(op, ast.NotIn | ast.IsNot):
            return pc.invert(self.compare(ast.In() if isinstance(op, ast.NotIn) else ast.Is(), left, right))
        if isinstance(op, ast.In) and isinstance(right, ast.Tuple | ast.List) and right.elts:
            return reduce(pc.or_kleene, [self.compare(ast.Eq(), left, one) for one in right.elts])
        a, b = self.value(left), self.value(right)
        if isinstance(right, ast.Constant) and right.value is None and isinstance(op, ast.Is | ast.Eq | ast.NotEq):
            return pc.is_valid(a) if isinstance(op, ast.NotEq) else pc.is_null(a)
        kinds = _kind(a), _kind(b)
        if isinstance(op, ast.In) and kinds[1] == "text" and isinstance(left, ast.Constant):
            return pc.match_substring_regex(b, f"(^|,){re.escape(str(left.value))}(,|$)")
        if kinds == ("time", "text"):
            b, kinds = pc.assume_timezone(pc.cast(b, pa.timestamp("us")), "UTC"), ("time", "time")
        if type(op) not in _COMPARE or len({*kinds} - {"nothing"}) > 1:
            raise self.refuse(f"{ast.unparse(left)} is {kinds[0]}, {ast.unparse(right)} is {kinds[1]}")
        return _COMPARE[type(op)](a, b)

    def value(self, node: ast.expr) -> pa.Array:
        """Return a column, or a literal once for each row."""
        if isinstance(node, ast.Name):
            if node.id not in self.rows:
                near = did_you_mean(node.id, map(str, self.rows))
                raise self.refuse(f"no column {node.id!r}{near} Texts stand in quotes")
            return pa.array(self.rows[node.id])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return pc.negate(self.value(node.operand))
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
            return pa.repeat(pa.scalar(node.value), len(self.rows))
        raise self.refuse(f"{ast.unparse(node)} is neither a column nor a text, a number, True, False or None")

    def refuse(self, why: str) -> ResultsError:
        """Return the error of a condition that cannot be computed."""
        return ResultsError(f"--where {self.text}: {why}; write it as in {EXAMPLE!r}")


def _kind(values: pa.Array) -> str:
    """Return the kind of a column or literal; only values of one kind can be compared."""
    kind = values.type
    if pa.types.is_null(kind):
        return "nothing"
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "a number"
    return {"timestamp": "time"}.get(str(kind).partition("[")[0], "text" if "string" in str(kind) else str(kind))

"""How much all queries together attend to each key."""

from vlmadapt.ops.attention_column_sums.function import attention_column_sums
from vlmadapt.ops.attention_column_sums.reference import attention_column_sums_reference

__all__ = ["attention_column_sums", "attention_column_sums_reference"]

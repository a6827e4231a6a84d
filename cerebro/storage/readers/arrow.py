"""Arrow columns as plain arrays: nested lists become shapes, text becomes codes, what has no value is an error."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cerebro.errors import DataError
from cerebro.storage.readers.base import Array, Block, Place, Shape, Strings, Values, block_rows

ALLOWED = "numbers, booleans, times, strings, and lists of these numbers that all have the same length"


def fields_of(schema: Any, name: str) -> Mapping[str, str]:
    """The types of a schema by column, as texts that do not tell apart what a dataset keeps alike.

    Raises:
        DataError: two columns have the same name.
    """
    twice = sorted({column for column in schema.names if schema.names.count(column) > 1})
    if twice:
        raise DataError(f"{name}: has more than one column {twice[0]!r}: rename them")
    return {field.name: str(_plain(field.type)) for field in schema}


def blocks_of(
    batches: Iterable[Any], columns: Sequence[str], name: str, block_bytes: int, *, nan_for_null: bool = False
) -> Iterator[Block]:
    """The record `batches` as blocks; with `nan_for_null`, a missing float is NaN instead of an error."""
    first_row, shapes = 0, dict[str, Shape]()
    for batch in batches:
        for piece in _pieces(batch, block_bytes):
            block: dict[str, Values] = {}
            for column in columns:
                place = Place(name, column, first_row)
                values = column_values(piece.column(column), place, shapes.get(column), nan_for_null=nan_for_null)
                block[column] = values
                shapes[column] = () if isinstance(values, Strings) else values.shape[1:]
            first_row += piece.num_rows
            yield block


def column_values(array: Any, place: Place, shape: Shape | None = None, *, nan_for_null: bool = False) -> Values:
    """The values of an Arrow array `[rows]`, whose rows are of `shape` where earlier rows said so.

    Raises:
        DataError: a null, ragged rows, or a type that a dataset cannot hold.
    """
    if isinstance(array.type, pa.FixedShapeTensorType):
        return _tensor(array, place)
    while isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = _decoded(array)
    if nan_for_null and pa.types.is_floating(array.type):
        array = array.fill_null(float("nan"))
    _refuse_nulls(array, place, 1)
    if _is_text(array.type):
        return _strings(array)
    rows, inner = len(array), list[int]()
    while _is_list(array.type):
        array = _flattened(array, place, inner, shape)
        per_row = len(array) // rows
        _refuse_nulls(array, place, max(1, per_row))
    return _numbers(array, place).reshape(rows, *inner)


def strings_of(array: Array, place: Place) -> Values:
    """The values of a NumPy array of text or objects `[rows]`.

    Raises:
        DataError: its values are not all texts or numbers.
    """
    if array.ndim != 1:
        raise place.error("holds several texts or objects a row: make it one text a row, or numbers")
    try:
        values = pa.array(array.astype(object) if array.dtype.kind == "T" else array)
        values = values.cast(pa.string()) if pa.types.is_binary(values.type) else values
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise place.error(f"holds what is neither text nor number: {str(error).rstrip('. ')}") from error
    return column_values(values, place)


def _pieces(batch: Any, block_bytes: int) -> Iterator[Any]:
    if not batch.num_rows:
        return
    rows = block_rows(batch.nbytes // batch.num_rows, block_bytes)
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _tensor(array: Any, place: Place) -> Array:
    _refuse_nulls(array, place, 1)
    flat = array.storage.flatten()
    _refuse_nulls(flat, place, max(1, len(flat) // max(1, len(array))))
    _numbers(flat.slice(0, 0), place)
    return array.to_numpy_ndarray()


def _decoded(array: Any) -> Any:
    """The values that a dictionary array stands for; views are made strings, which Arrow can look up."""
    if pa.types.is_string_view(array.type.value_type):
        array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(pa.string()))
    return array.dictionary_decode()


def _refuse_nulls(array: Any, place: Place, values_per_row: int) -> None:
    if array.null_count:
        index = pc.index(array.is_null(), pa.scalar(True)).as_py()
        raise place.null(index // values_per_row)


def _flattened(lists: Any, place: Place, inner: list[int], shape: Shape | None) -> Any:
    """The values of `lists`, whose common length is appended to `inner`."""
    if pa.types.is_fixed_size_list(lists.type):
        length = lists.type.list_size
    else:
        lengths = pc.call_function("list_value_length", [lists]).to_numpy(zero_copy_only=False)
        depth = len(inner)
        length = shape[depth] if shape is not None and depth < len(shape) else int(lengths[0])
        different = (lengths != length).nonzero()[0]
        if len(different):
            row = int(different[0]) // _product(inner)
            raise place.ragged(row, (*inner, int(lengths[different[0]])), (*inner, length))
    if length == 0:
        raise place.error("has rows without values{where}: leave it out with columns=[...]", 0)
    inner.append(length)
    return lists.flatten()


def _numbers(array: Any, place: Place) -> Array:
    kind = array.type
    if pa.types.is_boolean(kind):
        array = array.cast(pa.uint8())
    elif pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        array = (array.cast(pa.int32()) if kind.bit_width == 32 else array).cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise place.error(f"is of type {kind}: a dataset holds {ALLOWED}")
    return array.to_numpy(zero_copy_only=False)


def _strings(array: Any) -> Strings:
    encoded = array.dictionary_encode()
    return Strings(tuple(encoded.dictionary.to_pylist()), encoded.indices.to_numpy(zero_copy_only=False))


def _plain(kind: Any) -> Any:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return pa.string() if _is_text(kind) else kind


def _is_text(kind: Any) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_list(kind: Any) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _product(sizes: Iterable[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product

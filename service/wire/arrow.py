"""From an Arrow IPC stream to the matrix that the graph reads: a column for each feature, by name and in any order.

No library of Arrow's is used: docs/decisions/0020-arrow-without-a-library.md says why.
"""

from models.errors import BadRow, shown
from models.features import Feature
from models.schema import Matrix, Schema
from service.problems import TooLarge
from service.wire.arrow_columns import Columns, Values, as_list, join
from service.wire.arrow_stream import Field, read_stream
from service.wire.flat import damaged

_TEXTS = ("text", "large text", "text view")
_ACCEPTED = {
    "number": ("null", "int", "float", "decimal"),
    "category": ("null", "int", "float", "decimal", "bool", *_TEXTS),
    "boolean": ("null", "int", "float", "decimal", "bool"),
    "datetime": ("null", "date", "timestamp", *_TEXTS),
}
"""The columns that each kind of feature may come as; each may be encoded by a dictionary as well."""


def encode(raw: bytes, schema: Schema, most_rows: int) -> Matrix:
    """The rows of a stream as the matrix that the graph reads, [N, F].

    Raises:
        BadBody: the body is no whole stream, or is compressed, or its buffers are not what its types say.
        TooLarge: it has more rows than `most_rows`; those beyond were not read.
        BadRow: a column is unknown, absent, there twice or of a type that its feature is not read from, or a value is
            none of the feature's.
    """
    announced, batches = read_stream(raw)
    features = {feature.name: feature for feature in schema.features}
    fields: dict[str, Field] = {}
    for field in announced:  # one by one: a hostile stream may announce very many
        if field.name in fields:
            raise BadRow(None, field.name, "must stand once", "a second column")
        _check(field, features.get(field.name), schema)
        fields[field.name] = field
    parts: dict[str, list[Values]] = {name: [] for name in fields}
    reader, rows = Columns([*fields.values()]), 0
    for batch in batches:
        if batch.dictionary is not None:
            reader.learn(batch)
            continue
        rows += batch.length
        if rows > most_rows:
            raise TooLarge(most_rows, rows, "rows")
        if not fields and batch.length:
            raise damaged("its rows must have columns")
        for field, values in reader.values(batch):
            parts[field.name].append(_as_read(features[field.name], values))
    return schema.encode_columns({name: join(values) for name, values in parts.items()})


def _check(field: Field, feature: Feature | None, schema: Schema) -> None:
    if feature is None:
        schema.encode_columns({field.name: []})  # says that it is unknown, and what is near
    elif field.kind not in _ACCEPTED[feature.kind]:
        kinds = ", ".join(kind for kind in _ACCEPTED[feature.kind] if kind != "null")
        raise BadRow(None, field.name, f"must be a column of type {kinds}", f"type {shown(field.kind)[1:-1]}")


def _as_read(feature: Feature, values: Values) -> Values:
    """The values as `Schema.encode_columns` reads them fastest."""
    return values if feature.kind in ("number", "datetime") else as_list(values)

"""What a field is when a version does not have it: the protocol's default, else the type's zero."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any


def entity_type(field: Field[Any]) -> Any:
    from kio.serial._introspect import EntityField, EntityTupleField, classify_field

    found = classify_field(field)
    return found.type_ if isinstance(found, EntityField | EntityTupleField) else None


def default_of(field: Field[Any]) -> Any:
    """The protocol's default for a field that a version does not have."""
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    from kio.serial._implicit_defaults import get_implicit_default
    from kio.serial._introspect import EntityField, classify_field, is_optional

    if is_optional(field):
        return None
    found = classify_field(field)
    if found.is_array:
        return ()
    if isinstance(found, EntityField):
        return found.type_(**{inner.name: default_of(inner) for inner in fields(found.type_)})
    if found.type_ is bool:
        return False
    from kio.schema.errors import ErrorCode

    if found.type_ is ErrorCode:
        return ErrorCode.none
    return get_implicit_default(found.type_)

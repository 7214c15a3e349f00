"""The reference table of all settings, generated from their fields."""

from __future__ import annotations

from typing import Any

from kwneuro_assets.settings.pipeline import PipelineSettings

_TYPES = {
    "integer": "integer", "number": "number", "string": "text", "boolean": "true or false",
}  # fmt: skip


def settings_table() -> str:
    """All settings as a Markdown page: key, default, range and meaning."""
    lines = ["# Settings", "", "| key | default | allowed | meaning |", "|---|---|---|---|"]
    for section, field in PipelineSettings.model_fields.items():
        kind = field.annotation
        assert kind is not None
        for key, schema in kind.model_json_schema()["properties"].items():
            default = "" if schema.get("default") is None else f"`{schema['default']}`"
            lines.append(f"| `{section}.{key}` | {default} | {_allowed(schema)} | {schema['description']} |")
    return "\n".join(lines) + "\n"


def _allowed(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(part for part in map(_allowed, schema["anyOf"]) if part)
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "object":
        return f"{schema.get('key', 'pattern')}: {_allowed(schema['additionalProperties'])}"
    bounds = [
        f"{sign} {schema[name]:g}"
        for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if name in schema
    ]
    return " ".join([_TYPES.get(schema.get("type", ""), ""), ", ".join(bounds)]).strip()

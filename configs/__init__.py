"""YAML presets, which hold only differences, and the dataclasses that they fill."""

from .schema import register_schema

__all__ = ["register_schema"]

"""The tensor shape annotations: jaxtyping's where it is installed, otherwise plain arrays.

jaxtyping is a development dependency only. The tests execute the annotations; in production
`Float[Tensor, "row column"]` is just `Tensor` unless the user has jaxtyping.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Int, Shaped
    except ImportError:

        class _AnyShape:
            """Drops the shape from an annotation and leaves the array type."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                array_type, _shape = item
                return array_type

        class Bool(_AnyShape):
            """Stands in for jaxtyping.Bool."""

        class Float(_AnyShape):
            """Stands in for jaxtyping.Float."""

        class Int(_AnyShape):
            """Stands in for jaxtyping.Int."""

        class Shaped(_AnyShape):
            """Stands in for jaxtyping.Shaped."""


__all__ = ["Bool", "Float", "Int", "Shaped"]

"""The live explorer: a page on this computer that pushes subnetworks and shows what that changes."""

from subscape.explorer.serve import explore

__all__ = ["explore"]

"""Attribution methods, one file a paper."""

from sfumato.methods.extremal import ExtremalPerturbation

__all__ = ["ExtremalPerturbation"]

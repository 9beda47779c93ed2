"""Adapters of methods for other libraries: Captum's `attribute` and Quantus' `explain_func`."""

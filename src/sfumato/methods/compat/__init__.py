"""Methods of this library in the forms that other libraries expect: Captum's `attribute`, Quantus' `explain_func`."""

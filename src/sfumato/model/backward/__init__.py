"""Backward rules, by which a signal flows back through a network: deconvnet, guided backprop and excitation backprop.

These files define rules. Read them in this order:

- `rule`: the classes to subclass for a rule of your own, `RectifierRule` and `FunctionRule`;
- `rectifier_rules` and `excitation`: the published rules, with their equations and papers;
- `functions`: tables of the functions of torch by kind, from which rules choose.

These files apply rules, and depend on none of them by name:

- `rules`: `BackwardRules`, the context in which a forward pass is prepared for backward passes by the rules;
- `rectifiers`: finds rectifiers by name and by value, also those written by hand; `hooks` puts the rule on their nodes;
- `curves` and `gates`: recognise a rectifier by its values, for `rectifiers`;
- `conservation`: checks that probabilities add up, and that one thread computed everything.

A new rule is one class, and one problem in `tests/test_rules_literal.py`, which compares every rule with a slow, literal copy.
"""

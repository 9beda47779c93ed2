"""Other ways for a signal to flow back through a network: deconvnet, guided backprop and excitation backprop.

What a rule is, in this order:

- `rule`: the classes to subclass for a rule of your own, `RectifierRule` and `FunctionRule`;
- `rectifier_rules` and `excitation`: the published rules, with their equations and papers;
- `functions`: tables of the functions of torch by kind, from which rules choose.

What carries rules out, and knows none of them by name:

- `rules`: `BackwardRules`, the context in which a forward pass is made ready for another way back;
- `rectifiers`: finds rectifiers by name and by value, also those written by hand; `hooks` puts the rule on their nodes;
- `curves` and `gates`: what tells a rectifier by its values, which serve `rectifiers`;
- `conservation`: checks that probability adds up, and that all was computed in one thread.

A new rule is one class, and one problem in `tests/test_rules_literal.py`, where every rule stands beside a slow twin.
"""

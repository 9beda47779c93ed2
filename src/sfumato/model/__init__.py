"""A user's model while it is explained: frozen, called in known modes, and read as a score.

- `effects`: context managers that change a model and restore it;
- `modes`: the autocast, gradient and random state in which a model is called;
- `inputs`, `arguments`, `outputs`: checks of a model's inputs, its further arguments, and comparisons of its outputs;
- `of_pictures`: models that prepare pictures themselves, such as a `Classifier`;
- `subject`: a model with inputs and a score, checked. Every method begins with it;
- `evaluate`: scores and gradients of a subject under perturbed inputs;
- `fingerprint`: a hash of a network;
- `backward`: backward rules, i.e. other ways for a signal to flow back through a network.
"""

"""Other ways for a signal to flow back through a network: deconvnet, guided backprop and excitation backprop.

`rules` first: what flows back at which operation. `rectifiers` finds the ReLUs that are written by hand; `curves` and `gates`
serve it; `conservation` checks that probability adds up.
"""

"""The commands of `milterlab`, one module each; `milterd.lab.cli` gathers them."""

"""Golden training steps: what every built-in method and the engine compute, kept per version.

`steps/METHOD.json` keeps, per direction (kind of teacher > kind of student), the losses and the norms of gradients of
seeded training steps, and on one direction those of every named variant and of every batch of `corners`. A method's key
holds its version in the place of its source, so a change of what it computes must raise the version;
`test_golden_steps.py` fails where it does not. `steps/engine.json` does the same for `records.ENGINE_VERSION`.

    python -m tests.golden              # write the steps that are new or of a raised version
    python -m tests.golden fbt engine   # of these only

A method's steps run in float64: the values then agree across versions of torch and kinds of CPU far below the
tolerance, which float32 does not give for steep losses on small batches. `modes` replaces what differs among versions.
"""

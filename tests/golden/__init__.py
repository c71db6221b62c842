"""Golden training steps: what every built-in method computes, kept per version of the method.

`steps/METHOD.json` keeps, per direction (kind of teacher > kind of student), the losses and the norms of gradients of
three seeded training steps, and those of every named variant on one direction. A method's key holds its version in the
place of its source, so a change of what it computes must raise the version; `test_golden_steps.py` fails where it does
not.

    python -m tests.golden              # write the steps of methods that are new or have a raised version
    python -m tests.golden fbt ofa      # of these methods only

The steps run in float64: the values then agree across versions of torch and kinds of CPU far below the tolerance, which
float32 does not give for steep losses on small batches.
"""

"""The store: one folder a run, named by its key; its files say in which state the run is.

    runs/<key>/identity.json      what the run is (the key is the hash of it)
    runs/<key>/about.json         its names for readers: the method's label, the recipe
    runs/<key>/lock               held by the live process that works on the run
    runs/<key>/holder.json        which one that is, or was: host, process, device
    runs/<key>/checkpoints/       while it is unfinished: the last two
    runs/<key>/failure.json       the reason, if the last attempt failed
    runs/<key>/error.txt          the last frames of the traceback, if it was an error of the method
    runs/<key>/log.txt            how it goes, or went, for readers; appended
    runs/<key>/losses.csv         the same in numbers
    runs/<key>/predictions.npy    predicted class of every test image, uint16
    runs/<key>/student.safetensors
    runs/<key>/student_ema.safetensors   its averaged weights, if they are kept
    runs/<key>/modules.safetensors   what was trained beside it and the method's buffers, if they are kept
    runs/<key>/SHA256SUMS         of the files of a finished run, for `sha256sum -c` too
    runs/<key>/record.json        written last: the run is done
    runs/index.jsonl              which runs were found whole, by size and date of their files; may be deleted

Files appear whole or not at all (temporary file, fsync, rename), so that a kill at any moment is harmless.
"""

from cakdbench.store.files import write_atomic
from cakdbench.store.folder import RunFolder, checkpoint_files, checkpoint_step, unreadable
from cakdbench.store.keys import KEY, canonical, find_keys, key_stem, one_key, plain_values, run_key
from cakdbench.store.store import Store

__all__ = [
    "KEY",
    "RunFolder",
    "Store",
    "canonical",
    "checkpoint_files",
    "checkpoint_step",
    "find_keys",
    "key_stem",
    "one_key",
    "plain_values",
    "run_key",
    "unreadable",
    "write_atomic",
]

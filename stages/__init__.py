"""One script a stage of ``dvc.yaml``: read parameters, call ``lib``, write outs."""

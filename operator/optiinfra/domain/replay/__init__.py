"""Replay: what a scaling rule would have done to a load, in a model that anyone can rebuild.

`fluid` is the model, `figures` what is read from a run, `baselines` and its siblings the rules that people use today,
`hindsight` the plans that know the future. Nothing here decides for a real service: that is `optiinfra.domain.scaler`,
which this package only drives.
"""

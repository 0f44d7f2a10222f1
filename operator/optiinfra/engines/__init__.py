"""From an engine's page to signals, and from a pod's arguments to settings. Pure: no I/O, no clock, no logging.

`page.read` turns the text that an engine serves into an `EngineReading`; `settings.read` turns the arguments of a
pod's containers into `EngineSettings`. One module an engine holds that engine's names, one alias table each.
"""

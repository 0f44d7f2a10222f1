"""The door to Kubernetes, to engines and to agents: the only package that speaks HTTP as a client.

JSON is parsed here into frozen models; nothing above sees a dictionary, except opaque `Json` in specs, status bodies
and patches. This package decides nothing: it reads facts, writes what it is told to, and says
precisely why it could not.
"""

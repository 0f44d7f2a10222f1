"""The LangGraph workflows (one round, one insight) and the advisers: Groq, and the deterministic one.

The only package that imports langgraph, langchain and groq. The language-model modules are imported when a call is
made for the first time, never on import: an operator without a key never loads them. Nothing here talks to
Kubernetes, keeps a checkpoint, or decides a number: an adviser ranks and explains what the domain computed.
"""

from optiinfra.analysis.isolation import isolate

# Before the first import of langgraph: it and langsmith read their switches when they are imported.
isolate()

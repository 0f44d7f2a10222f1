"""The savings ledger: requests freed, capacity freed and money saved, three levels that are never added up.

Requests are freed when pods ask for less, capacity when the pods that asked really left their nodes, money when a node
goes or one is not bought. Every entry says what was before and after, when, by whom, and on which basis.
"""

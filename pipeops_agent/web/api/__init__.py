"""
What is asked and answered below C{/api}: health, features, figures, connectivity, settings, lists.

C{operations} is the table, C{routes} joins it with what answers, C{serving} makes a route of an operation,
C{query} reads parameters. C{openapi}, C{asyncapi} and C{docs} describe all of it by the same types.
"""

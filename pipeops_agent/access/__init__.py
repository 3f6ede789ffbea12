"""
Who may ask what of the agent's own interface, whatever it is asked by.

L{gate} tells callers by what they show, L{limits} counts what they take, L{kubernetes} asks the cluster about
its own, and L{audit} writes down what they did. Nothing in here knows of HTTP: that is C{web/access.py}'s.
"""

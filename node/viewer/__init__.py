"""A page that shows what a node sees and says. It speaks only the public client (`ureca`), so it
runs beside the node or on another host, and nothing that a browser does can slow the node.
"""

"""A web page that shows a running node. It uses only the public client (`ureca`), so it runs beside
the node or on another host, and a browser cannot slow the node down.
"""

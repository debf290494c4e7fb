"""The server's edge: the event API and the REST API over HTTP. It decides nothing; the node does."""

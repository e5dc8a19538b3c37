"""A model as a folder that any static host serves: the page, the graph and what runs it in the browser."""

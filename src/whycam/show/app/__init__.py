"""The local web app: `routes.make_app` makes it of a model."""

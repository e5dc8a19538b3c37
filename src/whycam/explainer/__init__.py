"""A question about photos -> an explanation: targets, scores, views, passes."""

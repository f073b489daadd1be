"""Model versions: the immutable, numbered results of aggregations, and what sites report of them."""

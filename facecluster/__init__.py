"""Groups the faces of a photo collection into people, offline and at scale."""

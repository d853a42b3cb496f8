"""Instance heads behind one interface: ``loss(features, target, ...)`` and ``predict(features, semantic)``."""

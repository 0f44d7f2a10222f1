"""A KEDA external scaler: the decided replicas over gRPC, for ScaledObjects. Imported only where it is enabled."""

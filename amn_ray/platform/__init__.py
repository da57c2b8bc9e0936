"""Ray and MLflow as stages and recipe use them: the cluster, claims, mapping of tables, tracking."""

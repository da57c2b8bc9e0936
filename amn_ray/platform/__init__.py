"""Ray and MLflow as the stages and the recipe use them: the cluster, claims, mapping tables, tracking."""

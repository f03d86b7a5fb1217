"""The merged metrics page: the agent's own, Envoy's, and the application's, each as it came."""

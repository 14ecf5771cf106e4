"""KubeRay objects rendered from a Plan. Pure: values in, plain tables out, nothing is applied."""

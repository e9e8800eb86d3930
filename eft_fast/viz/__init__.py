"""Pictures of fits: shaded meshes, overlays on photos, panels, an HTML report and mesh files."""

// Shows the schema with the Swagger UI that comes with django-ninja. Everything is served by this installation:
// validatorUrl is null because Swagger would otherwise send the schema's address to a validator of its own.
"use strict";

const place = document.getElementById("docs");
SwaggerUIBundle({
  url: place.dataset.schema,
  dom_id: "#docs",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  validatorUrl: null,
});

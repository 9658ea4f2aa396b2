// In a file of its own, so that the page's policy needs to allow no script within the page.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, showExtensions: true });

"use strict";
// Whoever sends a tensor file says its digest (RFC 9530); a browser does not do that of its own accord.
async function withDigest(request) {
  const isTensorFile = request.headers?.["Content-Type"] === "application/vnd.safetensors";
  if (isTensorFile && request.body instanceof Blob && crypto.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await request.body.arrayBuffer()));
    request.headers["Content-Digest"] = `sha-256=:${btoa(String.fromCharCode(...digest))}:`;
  }
  return request;
}

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  tryItOutEnabled: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null,
  requestInterceptor: withDigest,
});

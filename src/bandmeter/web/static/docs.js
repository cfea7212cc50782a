// Renders /openapi.json. Text is only ever set as text, never as HTML.

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function resolve(api, schema) {
  const reference = schema && schema.$ref;
  return reference ? reference.slice(2).split("/").reduce((at, key) => at[key], api) : schema;
}

function table(heads, rows) {
  const head = element("tr", {}, ...heads.map((text) => element("th", { textContent: text })));
  const body = rows.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, cell))));
  return element("table", {}, head, ...body);
}

function parameters(operation, fields) {
  const rows = (operation.parameters || []).map((parameter) => {
    const field = element("input", { ariaLabel: parameter.name, placeholder: (parameter.schema.enum || []).join(" | ") });
    fields.push([parameter, field]);
    const name = element("code", { textContent: parameter.name + (parameter.required ? " *" : "") });
    return [name, parameter.description, field];
  });
  return rows.length ? [table(["Parameter", "", "Value"], rows)] : [];
}

function body(operation) {
  const schema = operation.requestBody && operation.requestBody.content["application/json"].schema;
  if (!schema) return [[], null];
  const field = element("textarea", { ariaLabel: "body", rows: 6, placeholder: "JSON" });
  const shown = element("pre", { textContent: JSON.stringify(schema, null, 1) });
  return [[field, element("details", {}, element("summary", { textContent: "JSON Schema of the body" }), shown)], field];
}

function responses(api, operation) {
  const rows = Object.entries(operation.responses).map(([status, response]) => {
    const type = Object.keys(response.content || {})[0] || "";
    return [element("code", { textContent: status }), response.description, element("code", { textContent: type })];
  });
  const success = operation.responses["200"];
  const schema = resolve(api, Object.values(success.content)[0].schema);
  const shown = element("pre", { textContent: JSON.stringify(schema, null, 1) });
  const shape = element("details", {}, element("summary", { textContent: "JSON Schema of a 200" }), shown);
  return [table(["Status", "", "Type"], rows), shape];
}

function address(path, fields) {
  const query = new URLSearchParams();
  let filled = path;
  for (const [parameter, field] of fields) {
    if (parameter.in === "path") filled = filled.replace(`{${parameter.name}}`, encodeURIComponent(field.value));
    else if (field.value) query.set(parameter.name, field.value);
  }
  return query.size ? `${filled}?${query}` : filled;
}

async function attempt(path, method, operation, fields, sent, output) {
  const key = document.getElementById("key").value.trim();
  const headers = key && operation.security.length ? { Authorization: `Bearer ${key}` } : {};
  if (sent) headers["Content-Type"] = "application/json";
  const response = await fetch(address(path, fields), { method: method.toUpperCase(), headers, body: sent ? sent.value : undefined });
  output.hidden = false;
  output.textContent = `${response.status} ${response.headers.get("content-type")}\n\n${await response.text()}`;
}

function section(api, path, method, operation) {
  const fields = [];
  const output = element("pre", { hidden: true });
  const button = element("button", { type: "button", textContent: "Try" });
  const title = element("summary", {}, element("code", { textContent: `${method.toUpperCase()} ${path}` }), ` ${operation.summary}`);
  const [written, sent] = body(operation);
  const made = element("details", {}, title, ...parameters(operation, fields), ...written, button, output, ...responses(api, operation));
  button.addEventListener("click", () => attempt(path, method, operation, fields, sent, output));
  return made;
}

const api = await (await fetch("/openapi.json")).json();
document.getElementById("title").textContent = `${api.info.title} ${api.info.version}`;
document.getElementById("description").textContent = api.info.description;
const sections = api.tags.map(({ name }) => {
  const made = element("section", {}, element("h2", { textContent: name }));
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      if (operation.tags.includes(name)) made.append(section(api, path, method, operation));
    }
  }
  return made;
});
document.getElementById("operations").replaceChildren(...sections);

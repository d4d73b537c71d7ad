//! The document as one page of HTML: no script, nothing loaded.

use std::fmt::Write as _;

use serde_json::Value;

/// The page may use its own style sheet and nothing else. The digest is that of [`STYLE`]; a test compares them.
pub(super) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; \
    style-src 'sha256-2Hpv2RIChHtf0ZmHioY07AvIYZueBc1cRA301WpYRwE='; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const STYLE: &str = include_str!("page.css");

/// The page.
pub(super) fn page(document: &Value) -> String {
    let mut html = String::new();
    let info = &document["info"];
    put(&mut html, format_args!("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">"));
    put(&mut html, format_args!("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"));
    put(&mut html, format_args!("<title>Aionis HTTP interface</title><style>{STYLE}</style></head><body>"));
    put(&mut html, format_args!("<h1>{} <small>{}</small></h1>", shown(&info["title"]), shown(&info["version"])));
    for paragraph in text(&info["description"]).split("\n\n") {
        put(&mut html, format_args!("<p>{}</p>", marked(paragraph)));
    }
    put(&mut html, format_args!("<p><a href=\"openapi.json\">openapi.json</a></p>"));
    for tag in items(&document["tags"]) {
        put(&mut html, format_args!("<h2>{}</h2><p>{}</p>", shown(&tag["name"]), shown(&tag["description"])));
        for (path, methods) in members(&document["paths"]) {
            for (method, operation) in members(methods) {
                if items(&operation["tags"]).any(|of| of == &tag["name"]) {
                    put_operation(&mut html, document, (method, path), operation);
                }
            }
        }
    }
    put(&mut html, format_args!("<h2>Schemas</h2>"));
    for (name, schema) in members(&document["components"]["schemas"]) {
        put(&mut html, format_args!("<details id=\"{0}\"><summary><code>{0}</code></summary>", escaped(name)));
        put_members(&mut html, schema);
        html.push_str("</details>");
    }
    put_codes(&mut html, document);
    html.push_str("</body></html>\n");
    html
}

fn put(html: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = html.write_fmt(what);
}

fn put_operation(html: &mut String, document: &Value, (method, path): (&str, &str), operation: &Value) {
    let (method, path) = (escaped(&method.to_uppercase()), escaped(path));
    put(html, format_args!("<details id=\"{}\"><summary>", shown(&operation["operationId"])));
    put(html, format_args!("<b>{method}</b> <code>{path}</code> {}</summary>", shown(&operation["summary"])));
    if let Some(role) = operation["x-required-role"].as_str() {
        put(html, format_args!("<p>Needs the role <b>{}</b>.</p>", escaped(role)));
    }
    let mut headers = String::new();
    for parameter in items(&operation["parameters"]) {
        let parameter = resolved(document, parameter);
        let schema = &parameter["schema"];
        let place = format!("{} ({})", shown(&parameter["name"]), shown(&parameter["in"]));
        put(&mut headers, format_args!("<tr><td><code>{place}</code></td><td>{}</td></tr>", about(schema)));
    }
    if !headers.is_empty() {
        put(html, format_args!("<h3>Parameters</h3><table>{headers}</table>"));
    }
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    if !body.is_null() {
        html.push_str("<h3>Body</h3>");
        put_members(html, resolved(document, body));
    }
    html.push_str("<h3>Answers</h3><table>");
    for (status, response) in members(&operation["responses"]) {
        let response = resolved(document, response);
        let kinds = members(&response["content"]).map(|(kind, content)| match name_of(&content["schema"]) {
            Some(name) => link(name),
            None => escaped(kind),
        });
        let kinds: Vec<String> = kinds.collect();
        let (status, what) = (escaped(status), shown(&response["description"]));
        put(html, format_args!("<tr><td>{status}</td><td>{what}</td><td>{}</td></tr>", kinds.join(" ")));
    }
    html.push_str("</table></details>");
}

fn put_members(html: &mut String, schema: &Value) {
    html.push_str("<table>");
    for (name, member) in members(&schema["properties"]) {
        let needed = items(&schema["required"]).any(|required| required == name);
        let mark = if needed { " <b>required</b>" } else { "" };
        let (name, kind, what) = (escaped(name), kind(member), about(member));
        put(html, format_args!("<tr><td><code>{name}</code>{mark}</td><td>{kind}</td><td>{what}</td></tr>"));
    }
    html.push_str("</table>");
}

fn put_codes(html: &mut String, document: &Value) {
    html.push_str("<h2>Errors</h2><table><tr><th>status</th><th>error</th><th>when</th><th>what to do</th></tr>");
    for entry in items(&document["x-error-codes"]) {
        let cells = [&entry["status"], &entry["code"], &entry["meaning"], &entry["remedy"]];
        html.push_str("<tr>");
        for cell in cells {
            let cell = cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
            put(html, format_args!("<td>{}</td>", marked(&cell)));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table>");
}

/// The kind of a value: a link to its schema, or its types.
fn kind(schema: &Value) -> String {
    if let Some(name) = name_of(schema) {
        return link(name);
    }
    let one = |kind: &Value| match kind.as_str() {
        Some("array") => format!("list of {}", self::kind(&schema["items"])),
        Some(kind) => escaped(kind),
        None => "any".to_owned(),
    };
    match schema["type"].as_array() {
        Some(kinds) => kinds.iter().map(one).collect::<Vec<_>>().join(" or "),
        None => one(&schema["type"]),
    }
}

/// Description and bounds.
fn about(schema: &Value) -> String {
    let mut parts = vec![marked(text(&schema["description"]))];
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|word| format!("<code>{}</code>", shown(word))).collect();
        parts.push(words.join(", "));
    }
    let said = ["default", "minimum", "maximum", "minLength", "x-max-bytes", "minItems", "maxItems", "x-max-depth"];
    for bound in said {
        if let Some(value) = schema.get(bound) {
            let value = escaped(&value.to_string());
            parts.push(format!("{bound} {value}"));
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("; ")
}

fn name_of(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

fn link(name: &str) -> String {
    format!("<a href=\"#{0}\">{0}</a>", escaped(name))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn shown(value: &Value) -> String {
    escaped(text(value))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Text with what stands between back-ticks as code.
fn marked(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts
        .map(|(at, part)| if at % 2 == 1 { format!("<code>{}</code>", escaped(part)) } else { escaped(part) })
        .collect()
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde_json::json;

    use super::*;

    #[test]
    fn the_policy_allows_the_style_sheet_and_nothing_else() {
        let digest = STANDARD.encode(aionis_core::canon::sha256(STYLE).0);
        assert!(CONTENT_SECURITY_POLICY.contains(&format!("style-src 'sha256-{digest}';")), "sha256-{digest}");
        for all in ["unsafe", "http", "*", "self", "script"] {
            assert!(!CONTENT_SECURITY_POLICY.contains(all), "{all}");
        }
    }

    #[test]
    fn the_page_has_every_operation_and_loads_nothing() {
        let document = crate::openapi::document();
        let page = page(&document);
        for (path, methods) in members(&document["paths"]) {
            assert!(page.contains(&format!("<code>{}</code>", escaped(path))), "{path}");
            for (_, operation) in members(methods) {
                assert!(page.contains(&format!("id=\"{}\"", text(&operation["operationId"]))), "{path}");
            }
        }
        for loading in ["<script", "src=", "@import", "url(", "http://", "https://", "style=\"", "<link"] {
            assert!(!page.contains(loading), "{loading}");
        }
        for reference in page.split("href=\"#").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(page.contains(&format!("id=\"{name}\"")), "{name} is nowhere");
        }
    }

    #[test]
    fn what_the_document_says_is_text() {
        let page = page(&json!({ "info": { "title": "<b>&\"", "description": "a `<i>`" }, "x-error-codes": [] }));
        assert!(page.contains("&lt;b&gt;&amp;&quot;") && page.contains("<code>&lt;i&gt;</code>"));
    }
}

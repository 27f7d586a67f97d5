//! The published description of the interface, and the test that it and the route table agree.

/// The OpenAPI 3.1.0 document that is served at `/openapi.json`.
pub const DOCUMENT: &str = include_str!("../openapi/api.json");

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::DOCUMENT;
    use crate::routes::{Lookup, Pattern, ROUTES, Verb, lookup};

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    fn verb(verb: Verb) -> &'static str {
        match verb {
            Verb::Get => "get",
            Verb::Post => "post",
        }
    }

    /// `(path, method)` to query parameters and whether they are required.
    fn documented() -> BTreeMap<(String, String), BTreeSet<(String, bool)>> {
        let document = document();
        let mut operations = BTreeMap::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let query = parameters
                    .filter(|parameter| parameter["in"] == "query")
                    .map(|p| (p["name"].as_str().unwrap().to_owned(), p["required"] == true))
                    .collect();
                operations.insert((path.clone(), method.clone()), query);
            }
        }
        operations
    }

    #[test]
    fn head() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["title"], "CoCo RESTful API");
        assert_eq!(document["servers"], serde_json::json!([{"url": "http://127.0.0.1:8006"}]));
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["AaelEvent"]["required"], serde_json::json!(["domain", "operation", "content"]));
        let version: BTreeSet<_> = schemas["VersionInfo"]["properties"].as_object().unwrap().keys().collect();
        assert_eq!(
            version.into_iter().collect::<Vec<_>>(),
            ["additional_tees", "confinement", "feature", "tee", "version"]
        );
    }

    #[test]
    fn the_table_and_the_document_agree_in_both_directions() {
        let table: BTreeMap<_, BTreeSet<_>> = ROUTES
            .iter()
            .map(|route| {
                let query = route.query.iter().map(|p| (p.name.to_owned(), p.required)).collect();
                ((route.documented.to_owned(), verb(route.verb).to_owned()), query)
            })
            .collect();
        assert_eq!(table, documented());
    }

    #[test]
    fn documented_paths_lead_to_their_rows() {
        for route in ROUTES {
            let path = route.documented.replace(['{', '}'], "");
            let method = http::Method::from_bytes(verb(route.verb).to_uppercase().as_bytes()).unwrap();
            assert!(
                matches!(lookup(&method, &path), Lookup::Found(found) if found.handler == route.handler),
                "{path}"
            );
            if let Pattern::Exact(exact) = route.pattern {
                assert_eq!(exact, route.documented);
            }
        }
    }

    #[test]
    fn every_operation_has_an_answer_and_references_resolve() {
        let document = document();
        for (path, item) in document["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                assert!(operation["operationId"].is_string(), "{path}");
                for status in ["200", "403"] {
                    assert!(operation["responses"][status].is_object(), "{path} {status}");
                }
            }
        }
        let references = DOCUMENT.split("\"#/").skip(1).map(|rest| rest.split('"').next().unwrap());
        let mut found = 0;
        for reference in references {
            assert!(document.pointer(&format!("/{reference}")).is_some(), "{reference}");
            found += 1;
        }
        assert!(found > 10);
    }
}

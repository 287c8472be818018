//! From a world that shows a difference to the smallest one that still does.

use crate::world::World;
use serde_json::Value;

/// A step into an object: a key or an index.
type Step = String;

/// Takes away objects, then parts of objects, as long as `differs` still says yes. `differs` is also asked about worlds that
/// are not valid any more, and says no to those.
pub fn shrink(world: &World, mut differs: impl FnMut(&World) -> bool) -> World {
    let mut differs = |world: &World| world.is_whole() && differs(world);
    let mut smallest = world.clone();
    loop {
        let before = smallest.clone();
        for number in (0..smallest.objects.len()).rev() {
            let mut candidate = smallest.clone();
            let gone = candidate.objects.remove(number);
            if gone["kind"] == "Pod" {
                candidate.attached.retain(|pod| {
                    gone["metadata"]["name"] != pod.name.as_str()
                        || gone["metadata"]["namespace"] != pod.namespace.as_str()
                });
            }
            if differs(&candidate) {
                smallest = candidate;
            }
        }
        for number in 0..smallest.objects.len() {
            // Outer parts first: what goes with them need not be tried.
            let mut paths = Vec::new();
            removable(&smallest.objects[number], &mut Vec::new(), &mut paths);
            for path in paths {
                let mut candidate = smallest.clone();
                if remove(&mut candidate.objects[number], &path) && differs(&candidate) {
                    smallest = candidate;
                }
            }
        }
        if smallest == before {
            return smallest;
        }
    }
}

fn removable(value: &Value, path: &mut Vec<Step>, paths: &mut Vec<Vec<Step>>) {
    let children: Vec<(Step, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        // From the end, so that indices still to come stay right.
        Value::Array(list) => {
            list.iter().enumerate().rev().map(|(n, value)| (n.to_string(), value)).collect()
        }
        _ => return,
    };
    for (step, child) in children {
        path.push(step);
        // Without its name and namespace it would be another object, and speak of other things.
        let is_identity =
            path.len() == 2 && path[0] == "metadata" && (path[1] == "name" || path[1] == "namespace");
        if !is_identity {
            paths.push(path.clone());
        }
        removable(child, path, paths);
        path.pop();
    }
}

fn remove(value: &mut Value, path: &[Step]) -> bool {
    let (step, rest) = (&path[0], &path[1..]);
    match value {
        Value::Object(map) if rest.is_empty() => map.remove(step).is_some(),
        Value::Array(list) if rest.is_empty() => {
            let index = step.parse().unwrap_or(usize::MAX);
            index < list.len() && {
                list.remove(index);
                true
            }
        }
        Value::Object(map) => map.get_mut(step).is_some_and(|child| remove(child, rest)),
        Value::Array(list) => step
            .parse()
            .ok()
            .and_then(|index: usize| list.get_mut(index))
            .is_some_and(|child| remove(child, rest)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn only_what_the_difference_needs_is_left() {
        let world = World::random(&mut StdRng::seed_from_u64(1));
        let has_port =
            |world: &World| world.objects.iter().any(|object| object.to_string().contains("\"port\""));
        assert!(has_port(&world));
        let smallest = shrink(&world, has_port);
        assert_eq!(smallest.objects.len(), 1);
        assert!(smallest.objects[0].to_string().len() < 130, "{}", smallest.objects[0]);
    }
}

//! Slurm's compact lists: of nodes (`gpu[07-09,12],login`) and of tasks per node (`2(x3),1`).

/// The first node of a list; `None` when it can't be read.
pub fn first_node(list: &str) -> Option<String> {
    let end = list.find(['[', ',']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    let Some(inside) = rest.strip_prefix('[') else {
        return (!name.is_empty()).then(|| name.to_string());
    };
    let (inside, after) = inside.split_once(']')?;
    let number = inside.split([',', '-']).next()?;
    let suffix = after.split(',').next().unwrap_or("");
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    // A second bracket in one name: its first number too.
    let suffix = match suffix.contains('[') {
        true => first_node(suffix)?,
        false => suffix.into(),
    };
    plain.then(|| format!("{name}{number}{suffix}"))
}

/// Tasks on node number `node`.
pub fn tasks_on(list: &str, node: usize) -> Option<usize> {
    let mut seen = 0;
    for part in list.split(',') {
        let (tasks, times) = match part.split_once("(x") {
            Some((tasks, times)) => (tasks, times.strip_suffix(')')?.parse::<usize>().ok()?),
            None => (part, 1),
        };
        seen += times;
        if node < seen {
            return tasks.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_slurm_writes_them() {
        for (list, first) in [
            ("n1", Some("n1")),
            ("n1,n2", Some("n1")),
            ("gpu[07-09,12],login", Some("gpu07")),
            ("rack[2]node[01-04]", Some("rack2node01")),
            ("tux[3-5]-ib", Some("tux3-ib")),
            ("", None),
            ("n[", None),
            ("n[]", None),
        ] {
            assert_eq!(first_node(list).as_deref(), first, "{list}");
        }
        let tasks: Vec<Option<usize>> = (0..5).map(|node| tasks_on("2(x3),1", node)).collect();
        assert_eq!(tasks, [Some(2), Some(2), Some(2), Some(1), None]);
        assert_eq!(tasks_on("4", 0), Some(4));
        assert_eq!(tasks_on("2(x", 0), None);
    }
}

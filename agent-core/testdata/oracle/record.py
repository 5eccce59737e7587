#!/usr/bin/env python3
"""Statements -> what PostgreSQL's own parser says about each: effects and relations.

    pip install pglast==8.8      # PostgreSQL 18's parser (libpg_query)
    ./record.py --html DIR --sql DIR > postgresql.jsonl

--html: PostgreSQL's documentation (package postgresql-doc-15), every example in it. --sql: scripts of the server and of
its contrib modules (/usr/share/postgresql/15). Both are under the PostgreSQL licence. To these come statements made by
the grammar below, from a fixed seed. A line is [text, [effect...], ["name r|w"...]].

The effects are told by the syntax tree's node types and by the names of functions that act; nothing here knows weir.
"""
import argparse, html, json, pathlib, random, re, sys
from pglast.parser import parse_sql_json, split, ParseError

LONGEST = 500
# The functions that act on the host, on other servers or on the server itself (manual 9.28, 33, appendix F).
FUNCTIONS = {
    "pg_read_file": "file", "pg_read_binary_file": "file", "pg_ls_dir": "file", "pg_stat_file": "file",
    "lo_import": "file copy_in", "lo_export": "file copy_out", "pg_file_write": "file", "pg_file_unlink": "file", "pg_ls_logdir": "file",
    "pg_terminate_backend": "admin", "pg_cancel_backend": "admin", "pg_reload_conf": "admin", "pg_rotate_logfile": "admin",
    "pg_switch_wal": "admin", "pg_promote": "admin", "dblink": "execute copy_out", "dblink_exec": "execute copy_out",
    "query_to_xml": "execute", "set_config": "session", "pg_create_physical_replication_slot": "replicate",
    "pg_create_logical_replication_slot": "replicate", "pg_drop_replication_slot": "replicate",
    "pg_logical_slot_get_changes": "replicate", "pg_advisory_lock": "lock", "lo_unlink": "delete",
}
ADMIN = {"CreateRoleStmt", "AlterRoleStmt", "AlterRoleSetStmt", "DropRoleStmt", "AlterSystemStmt", "VacuumStmt",
         "ReindexStmt", "ClusterStmt", "CheckPointStmt", "LoadStmt", "SecLabelStmt", "ReassignOwnedStmt",
         "ImportForeignSchemaStmt", "CreatePolicyStmt", "AlterPolicyStmt", "CreateEventTrigStmt", "CreateExtensionStmt",
         "CreatePLangStmt", "CreateForeignServerStmt", "CreateUserMappingStmt", "CreateTableSpaceStmt",
         "RefreshMatViewStmt"}
SESSION = {"VariableSetStmt", "DiscardStmt", "ListenStmt", "UnlistenStmt", "NotifyStmt", "DeallocateStmt", "ClosePortalStmt",
           "PrepareStmt"}


def name(node):
    return ".".join(p for p in (node.get("catalogname"), node.get("schemaname"), node.get("relname")) if p)


class Tree:
    """One statement's tree -> effects and relations."""

    def __init__(self):
        self.effects, self.relations, self.ctes = set(), set(), []

    def relation(self, node, access="r"):
        if "relname" not in node:
            return
        known = "schemaname" not in node and any(node["relname"] in names for names in self.ctes)
        if access == "w" or not known:
            self.relations.add(f"{name(node)} {access}")

    def each(self, node):
        if isinstance(node, list):
            for item in node:
                self.each(item)
        elif isinstance(node, dict):
            for kind, inner in node.items():
                if kind == "RangeVar":
                    self.relation(inner)
                elif kind == "FuncCall":
                    self.function(inner)
                    self.each(inner)
                elif isinstance(inner, dict) and hasattr(self, kind):
                    getattr(self, kind)(inner)
                elif isinstance(inner, (dict, list)):
                    self.each(inner)

    def function(self, node):
        called = node["funcname"][-1]["String"]["sval"]
        if called in FUNCTIONS:
            self.effects.update(FUNCTIONS[called].split())

    def scoped(self, node, body):
        """WITH names hold in the body; a query of the WITH sees those before it, or all where it may recurse."""
        clause = node.get("withClause")
        names = []
        self.ctes.append(names)
        if clause:
            ctes = [c["CommonTableExpr"] for c in clause["ctes"]]
            if clause.get("recursive"):
                names.extend(c["ctename"] for c in ctes)
            for cte in ctes:
                self.each(cte.get("ctequery"))
                names.append(cte["ctename"])
        body({k: v for k, v in node.items() if k != "withClause"})
        self.ctes.pop()

    def SelectStmt(self, node):
        def body(node):
            self.effects.add("read") if "valuesLists" not in node else None
            if node.get("lockingClause"):
                self.effects.add("lock")
            into = node.pop("intoClause", None)
            if into:
                self.effects.add("create")
                self.relation(into["rel"], "w")
            for arm in ("larg", "rarg"):
                if arm in node:
                    self.SelectStmt(node.pop(arm))
            node.pop("lockingClause", None)
            self.each(node)
        self.scoped(node, body)

    def InsertStmt(self, node):
        def body(node):
            self.effects.add("insert")
            self.relation(node.pop("relation"), "w")
            conflict = node.get("onConflictClause", {})
            if conflict.get("action") == "ONCONFLICT_UPDATE":
                self.effects.add("update")
            self.each(node)
        self.scoped(node, body)

    def UpdateStmt(self, node):
        def body(node):
            self.effects.add("update")
            self.relation(node.pop("relation"), "w")
            self.each(node)
        self.scoped(node, body)

    def DeleteStmt(self, node):
        def body(node):
            self.effects.add("delete")
            self.relation(node.pop("relation"), "w")
            self.each(node)
        self.scoped(node, body)

    def MergeStmt(self, node):
        def body(node):
            self.relation(node.pop("relation"), "w")
            for when in node["mergeWhenClauses"]:
                act = when["MergeWhenClause"]["commandType"]
                self.effects |= {"CMD_INSERT": {"insert"}, "CMD_UPDATE": {"update"}, "CMD_DELETE": {"delete"}}.get(act, set())
            self.each(node)
        self.scoped(node, body)

    def ExplainStmt(self, node):
        runs = False
        for option in node.get("options", []):
            option = option["DefElem"]
            if option["defname"] == "analyze":
                value = json.dumps(option.get("arg", {})).lower()
                runs = not any(off in value for off in ('"false"', '"off"', '{"ival": {}}', '"boolval": {}', '"integer": {}'))
        inner = Tree()
        inner.each(node["query"])
        self.relations |= inner.relations if runs else {r[:-1] + "r" for r in inner.relations}
        self.effects |= inner.effects if runs else {"read"}

    def CopyStmt(self, node):
        out = not node.get("is_from")
        self.effects.add("copy_out" if out else "copy_in")
        if node.get("is_program"):
            self.effects.add("program")
        elif node.get("filename"):
            self.effects.add("file")
        if "relation" in node:
            self.relation(node["relation"], "r" if out else "w")
        self.each(node.get("query"))

    def TruncateStmt(self, node):
        self.effects.add("truncate")
        for target in node["relations"]:
            self.relation(target["RangeVar"], "w")

    def DropStmt(self, node):
        self.effects.add("drop")
        if node["removeType"] in ("OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_SEQUENCE", "OBJECT_FOREIGN_TABLE"):
            for target in node["objects"]:
                self.relations.add(".".join(i["String"]["sval"] for i in target["List"]["items"]) + " w")

    def GrantStmt(self, node):
        self.effects.add("grant" if node.get("is_grant") else "revoke")
        if node.get("targtype") == "ACL_TARGET_OBJECT":
            self.each(node.get("objects"))

    GrantRoleStmt = GrantStmt

    def AlterDefaultPrivilegesStmt(self, node):
        self.effects.add("grant" if node["action"].get("is_grant") else "revoke")

    def CreateTableAsStmt(self, node):
        self.effects.add("create")
        self.relation(node["into"]["rel"], "w")
        inner = Tree()
        inner.each(node["query"])
        self.relations |= inner.relations
        if not node["into"].get("skipData"):
            self.effects |= inner.effects

    def ViewStmt(self, node):
        self.effects.add("create")
        self.relation(node["view"], "w")
        inner = Tree()
        inner.each(node["query"])
        self.relations |= inner.relations

    def AlterTableStmt(self, node):
        self.effects.add("alter")
        if node["objtype"] == "OBJECT_TYPE":
            return
        self.relation(node["relation"], "w")
        for command in node["cmds"]:
            if command["AlterTableCmd"]["subtype"] == "AT_DropColumn":
                self.effects.add("drop")

    def CreateStmt(self, node):
        self.effects.add("create")
        self.relation(node["relation"], "w")

    # Programs and queries that are kept, not run.
    def CreateFunctionStmt(self, node):
        self.effects.add("create")

    def RuleStmt(self, node):
        self.effects.add("create")
        self.relation(node["relation"])

    def PrepareStmt(self, node):
        self.effects.add("session")

    def LockStmt(self, node):
        self.effects.add("lock")
        self.each(node["relations"])

    def DeclareCursorStmt(self, node):
        self.each(node["query"])

    def DoStmt(self, node):
        self.effects.add("execute")

    def ExecuteStmt(self, node):
        self.effects.add("execute")

    def CallStmt(self, node):
        self.effects.add("call")
        self.each({"FuncCall": node["funccall"]})

    def statement(self, kind, node):
        if kind in ADMIN:
            self.effects.add("admin")
        if kind in SESSION:
            self.effects.add("session")
        if hasattr(self, kind):
            getattr(self, kind)(node)
            return
        if kind.startswith(("Create", "Define", "Comment")) or kind in ("IndexStmt", "CompositeTypeStmt", "ViewStmt"):
            self.effects.add("alter" if kind == "CommentStmt" else "create")
        elif kind.startswith("Alter") and kind not in ("AlterSystemStmt",) or kind == "RenameStmt":
            self.effects.add("alter")
        elif kind.startswith("Drop"):
            self.effects.add("drop")
        if kind in ("IndexStmt", "CreateTrigStmt", "CreatePolicyStmt", "CreateSeqStmt", "AlterSeqStmt", "RefreshMatViewStmt",
                    "RenameStmt", "CreateForeignTableStmt", "VacuumStmt", "ClusterStmt", "ReindexStmt"):
            for key in ("relation", "table", "sequence"):
                if key in node:
                    self.relation(node[key])
            if kind == "VacuumStmt":
                for target in node.get("rels", []):
                    self.relation(target["VacuumRelation"].get("relation", {}))


def verdict(text):
    """None unless the text is one statement for PostgreSQL."""
    try:
        statements = json.loads(parse_sql_json(text)).get("stmts", [])
    except (ParseError, ValueError, UnicodeError):
        return None
    if len(statements) != 1:
        return None
    tree = Tree()
    [(kind, node)] = statements[0]["stmt"].items()
    tree.statement(kind, node)
    # What is written needs no second mention as read.
    return sorted(tree.effects), sorted(tree.relations)


def pieces(text):
    for cut in (lambda: split(text, with_parser=True), lambda: split(text, with_parser=False),
                lambda: re.split(r";\s*\n", text)):
        try:
            return [p for p in cut()]
        except (ParseError, ValueError, UnicodeError):
            continue
    return []


def documentation(folder):
    for file in sorted(pathlib.Path(folder).rglob("*.html")):
        page = file.read_text("utf-8", "replace")
        for block in re.findall(r'<pre class="(?:programlisting|screen|synopsis)">(.*?)</pre>', page, re.S):
            text = html.unescape(re.sub(r"<[^>]+>", "", block))
            text = re.sub(r"(?m)^[\w@()]*[=-][>#*]\s?", "", text)
            yield from pieces(text)
            # What stands between results of a session.
            for chunk in re.split(r"\n\s*\n|\n(?=[ -]+\+|\()", text):
                yield from pieces(chunk)
            for line in re.findall(r"(?ms)^[A-Z][^;]*;", text):
                yield line


def scripts(folder):
    for file in sorted(pathlib.Path(folder).rglob("*.sql")):
        text = re.sub(r"(?m)^\\.*$", "", file.read_text("utf-8", "replace"))
        yield from pieces(text)


class Made:
    """Statements by a grammar."""

    def __init__(self, seed):
        self.r = random.Random(seed)

    def some(self, *choices):
        choice = self.r.choice(choices)
        return choice() if callable(choice) else choice

    def table(self):
        return self.some("t", "orders", "public.users", '"Quoted Name"', 's."select"', "db.sch.tab", "a1", "pg_class", 'U&"d\\0061t"',
                         "information_schema.columns", "é", "_x$1", '"a""b"', "ORDERS", "ONLY t")

    def column(self):
        return self.some("id", "a", "t.b", '"delete"', "name", "x.y", "c[1]", "(r).f", "drop_", "\"from\"")

    def literal(self):
        return self.some("1", "'x'", "NULL", "E'a\\'; DROP TABLE t; --'", "$$a)b$$", "$tag$ $$ ; DELETE FROM t $tag$", "'it''s'",
                         "U&'\\0441'", "B'101'", "X'1F'", "1.5e3", "-7", "true", "'DROP TABLE x'", "DATE '2020-01-01'",
                         "interval '1 day'", "$1", "'a'\n'b'", "ARRAY[1,2]", "ROW(1,2)", "'{}'::jsonb")

    def expression(self, depth):
        if depth <= 0:
            return self.some(self.column, self.literal)
        d = depth - 1
        e = lambda: self.expression(d)
        return self.some(
            self.column, self.literal, lambda: f"{e()} + {e()}", lambda: f"({e()} = {e()})", lambda: f"f({e()}, {e()})",
            lambda: f"({self.select(d)})", lambda: f"CASE WHEN {e()} = {e()} THEN {e()} ELSE {e()} END", lambda: f"({e()})::text",
            lambda: f"coalesce({e()}, {e()})", lambda: f"count(*) FILTER (WHERE {self.condition(d)})",
            lambda: f"sum({e()}) OVER (PARTITION BY {self.column()} ORDER BY {self.column()})", lambda: f"extract(year FROM {e()})",
            lambda: f"ARRAY({self.select(d)})", lambda: f"({e()} ->> 'k')", lambda: f"substring({e()} from 1 for 2)",
            lambda: f"CAST({e()} AS numeric(5,2))", lambda: f"({e()} AT TIME ZONE 'UTC')", lambda: f"pg_read_file({e()})",
            lambda: f"trim(both 'x' from {e()})", lambda: f"({e()} COLLATE \"C\")", lambda: f"pg_terminate_backend({e()})",
            lambda: f"position('a' in {e()})", lambda: f"overlay({e()} placing 'x' from 1)", lambda: f"lo_export({e()}, '/tmp/x')")

    def condition(self, depth):
        d = depth - 1
        e, c = lambda: self.expression(max(d, 0)), lambda: self.condition(max(d, 0))
        if depth <= 0:
            return f"{self.column()} = {self.literal()}"
        return self.some(
            lambda: f"{e()} = {e()}", lambda: f"{self.column()} IN ({self.literal()}, 2)", lambda: f"{self.column()} IN ({self.select(d)})",
            lambda: f"EXISTS ({self.select(d)})", lambda: f"{c()} AND {c()}", lambda: f"{c()} OR {c()}", lambda: f"NOT ({c()})",
            lambda: f"{e()} IS NOT NULL", lambda: f"{e()} BETWEEN 1 AND 2", lambda: f"{self.column()} LIKE '%a'",
            lambda: f"{e()} = ANY ({self.select(d)})", lambda: f"{e()} IS DISTINCT FROM {e()}",
            lambda: f"{self.column()} ~* '^a'", lambda: f"({self.column()}, 1) = (SELECT 1, 2)", lambda: f"{self.column()} @> '{{1}}'",
            lambda: f"{self.column()} SIMILAR TO 'a'", lambda: f"{self.column()} < ALL ({self.select(d)})")

    def source(self, depth):
        d = depth - 1
        t = lambda: self.table() + self.some("", " x", " AS y", " AS z (a, b)")
        if depth <= 0:
            return t()
        return self.some(
            t, t, lambda: f"{t()}, {t()}", lambda: f"{t()} JOIN {t()} ON {self.condition(d)}", lambda: f"{t()} LEFT JOIN {t()} USING (id)",
            lambda: f"({self.select(d)}) AS q", lambda: f"LATERAL ({self.select(d)}) l", lambda: "generate_series(1, 10) AS g(n)",
            lambda: f"{t()} NATURAL JOIN {t()}", lambda: f"{t()} CROSS JOIN LATERAL f({self.column()})", lambda: f"(VALUES (1, 2)) AS v(a, b)",
            lambda: f"{self.table()} TABLESAMPLE system (10)", lambda: f"ROWS FROM (f(1), g(2)) WITH ORDINALITY",
            lambda: f"({t()} JOIN {t()} ON true)", lambda: f"unnest({self.literal()}) AS u")

    def select(self, depth):
        d = depth - 1
        body = self.some("SELECT ", "SELECT ", "SELECT DISTINCT ", "SELECT DISTINCT ON (a) ", "select ")
        body += ", ".join(self.some("*", lambda: self.expression(d), lambda: self.expression(d) + " AS alias", "t.*") for _ in range(self.r.randint(1, 3)))
        if self.r.random() < 0.85:
            body += f" FROM {self.source(d)}"
        if self.r.random() < 0.6:
            body += f" WHERE {self.condition(d)}"
        body += self.some("", "", "", " GROUP BY a", " GROUP BY ROLLUP (a, b)", " GROUP BY a HAVING count(*) > 1", " GROUP BY GROUPING SETS ((a), ())")
        if depth > 1 and self.r.random() < 0.2:
            body += self.some(" UNION ", " UNION ALL ", " EXCEPT ", " INTERSECT ") + self.some(lambda: self.select(d), f"TABLE {self.table()}".replace("ONLY ", ""))
        body += self.some("", "", "", "", " ORDER BY 1", " ORDER BY a DESC NULLS LAST", " LIMIT 10", " OFFSET 5", " FETCH FIRST 3 ROWS ONLY")
        body += self.some(*[""] * 12, " FOR UPDATE", " FOR SHARE OF x SKIP LOCKED", " FOR NO KEY UPDATE NOWAIT")
        return body

    def where(self, depth):
        return self.some("", lambda: f" WHERE {self.condition(depth)}", lambda: f" WHERE {self.condition(depth)}", " WHERE true", " WHERE 1 = 1")

    def change(self, depth):
        d = depth - 1
        plain = lambda: self.table().replace("ONLY ", "")
        returning = lambda: self.some("", "", " RETURNING *", lambda: f" RETURNING {self.expression(d)}")
        return self.some(
            lambda: f"DELETE FROM {self.table()}{self.where(d)}{returning()}",
            lambda: f"DELETE FROM {self.table()} USING {self.source(d)}{self.where(d)}{returning()}",
            lambda: f"UPDATE {self.table()} SET a = {self.expression(d)}{self.where(d)}{returning()}",
            lambda: f"UPDATE {self.table()} AS u SET (a, b) = ({self.select(d)}) FROM {self.source(d)}{self.where(d)}",
            lambda: f"INSERT INTO {plain()} VALUES ({self.expression(d)}, {self.literal()}){returning()}",
            lambda: f"INSERT INTO {plain()} (a, b) {self.select(d)}{self.some('', ' ON CONFLICT DO NOTHING')}{returning()}",
            lambda: f"INSERT INTO {plain()} AS i (a) VALUES (1), (2) ON CONFLICT (a) DO UPDATE SET a = {self.expression(d)} WHERE {self.condition(d)}",
            lambda: f"INSERT INTO {plain()} DEFAULT VALUES",
            lambda: f"MERGE INTO {self.table()} AS m USING {plain()} s ON {self.condition(d)} WHEN MATCHED THEN {self.some('DELETE', 'UPDATE SET a = 1', 'DO NOTHING')} WHEN NOT MATCHED THEN INSERT VALUES (1)",
            lambda: f"MERGE INTO {plain()} m USING ({self.select(d)}) s ON m.id = s.id WHEN MATCHED AND {self.condition(d)} THEN DELETE WHEN NOT MATCHED BY SOURCE THEN DELETE")

    def with_(self, depth):
        names = ["c", "d2", "t"][: self.r.randint(1, 3)]
        parts = [f"{n}{self.some('', ' (a, b)')} AS {self.some('', 'MATERIALIZED ', 'NOT MATERIALIZED ')}({self.some(lambda: self.select(depth - 1), lambda: self.change(depth - 1))})" for n in names]
        main = self.some(lambda: f"SELECT * FROM {names[0]}, {self.table()}", lambda: self.select(depth - 1), lambda: self.change(depth - 1))
        return f"WITH {self.some('', '', 'RECURSIVE ')}{', '.join(parts)} {main}"

    def query(self, depth):
        return self.some(lambda: self.select(depth), lambda: self.change(depth), lambda: self.with_(depth))

    def definition(self):
        plain = lambda: self.table().replace("ONLY ", "")
        return self.some(
            lambda: f"DROP {self.some('TABLE', 'VIEW', 'SEQUENCE', 'MATERIALIZED VIEW', 'FOREIGN TABLE')} {self.some('', 'IF EXISTS ')}{plain()}, {plain()}{self.some('', ' CASCADE')}",
            lambda: f"DROP {self.some('SCHEMA s', 'DATABASE d', 'ROLE joe', 'USER IF EXISTS joe', 'OWNED BY joe', 'EXTENSION e', 'FUNCTION f(int)', 'TYPE ty', 'INDEX CONCURRENTLY i', 'SERVER s', 'PUBLICATION p', 'SUBSCRIPTION s', 'TRIGGER g ON t', 'POLICY p ON t', 'RULE r ON t', 'TABLESPACE ts', 'CAST (int AS text)', 'OPERATOR + (int, int)', 'AGGREGATE a(int)', 'ACCESS METHOD m', 'LANGUAGE l', 'DOMAIN IF EXISTS d', 'EVENT TRIGGER e', 'USER MAPPING FOR joe SERVER s', 'STATISTICS st', 'TEXT SEARCH PARSER p')}",
            lambda: f"TRUNCATE {self.some('', 'TABLE ')}{self.table()}, {plain()}{self.some('', ' RESTART IDENTITY CASCADE')}",
            lambda: f"CREATE {self.some('', 'TEMP ', 'UNLOGGED ')}TABLE {self.some('', 'IF NOT EXISTS ')}{plain()} (id int primary key, b text DEFAULT {self.literal()} NOT NULL)",
            lambda: f"CREATE TABLE {plain()} AS {self.query(2)}", lambda: f"CREATE {self.some('', 'OR REPLACE ')}VIEW {plain()} AS {self.select(2)}",
            lambda: f"CREATE MATERIALIZED VIEW {plain()} AS {self.select(2)}{self.some('', ' WITH NO DATA')}",
            lambda: f"CREATE {self.some('', 'UNIQUE ')}INDEX i ON {plain()} (a)", lambda: f"CREATE INDEX CONCURRENTLY ON {plain()} USING gin (a) WHERE a > 1",
            lambda: f"ALTER TABLE {self.some('', 'IF EXISTS ')}{plain()} {self.some('ADD COLUMN c int', 'DROP COLUMN c', 'DROP c CASCADE', 'ALTER COLUMN a TYPE text', 'RENAME TO x', 'RENAME COLUMN a TO b', 'OWNER TO joe', 'DISABLE TRIGGER ALL', 'ENABLE ROW LEVEL SECURITY', 'DROP CONSTRAINT k', 'SET SCHEMA s', 'ADD CONSTRAINT k CHECK (a > 0)', 'DETACH PARTITION p', 'ATTACH PARTITION p DEFAULT', 'INHERIT q', 'ALTER a DROP NOT NULL, DROP COLUMN z')}",
            lambda: f"GRANT {self.some('ALL', 'SELECT, INSERT', 'UPDATE (a)')} ON {self.some('', 'TABLE ')}{plain()}, {plain()} TO joe{self.some('', ' WITH GRANT OPTION')}",
            lambda: f"REVOKE {self.some('', 'GRANT OPTION FOR ')}ALL ON {plain()} FROM {self.some('joe', 'PUBLIC')}",
            lambda: f"{self.some('GRANT admin TO joe', 'REVOKE admin FROM joe', 'GRANT EXECUTE ON FUNCTION f TO joe', 'GRANT ALL ON ALL TABLES IN SCHEMA s TO joe', 'GRANT USAGE ON SCHEMA s TO joe', 'GRANT ALL ON DATABASE d TO joe', 'ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO joe', 'ALTER DEFAULT PRIVILEGES IN SCHEMA s REVOKE ALL ON TABLES FROM joe')}",
            lambda: f"{self.some('CREATE', 'ALTER')} {self.some('ROLE', 'USER')} {self.some('joe', 'Joe')} {self.some('', 'WITH ')}{self.some('SUPERUSER', 'PASSWORD ' + chr(39) + 'x' + chr(39), 'LOGIN CREATEDB', 'CONNECTION LIMIT 1')}",
            lambda: f"{self.some('ALTER SYSTEM SET log_statement = none', 'ALTER SYSTEM RESET ALL', 'ALTER ROLE joe SET search_path = a', 'ALTER DATABASE d SET work_mem = 1', 'SECURITY LABEL ON TABLE t IS $$x$$', 'REASSIGN OWNED BY a TO b', 'LOAD $$x$$', 'CHECKPOINT')}",
            lambda: f"CREATE {self.some('OR REPLACE ', '')}FUNCTION f() RETURNS int LANGUAGE sql AS $$ {self.change(1)} $$", lambda: "CREATE FUNCTION g() RETURNS int BEGIN ATOMIC DELETE FROM t; SELECT 1; END",
            lambda: f"CREATE RULE r AS ON INSERT TO {plain()} DO INSTEAD ({self.change(1)}; {self.change(1)})",
            lambda: f"COMMENT ON {self.some('TABLE', 'VIEW')} {plain()} IS 'x'", lambda: f"CREATE TRIGGER g BEFORE DELETE ON {plain()} FOR EACH ROW EXECUTE FUNCTION f()",
            lambda: f"CREATE POLICY p ON {plain()} USING ({self.condition(1)})")

    def utility(self):
        plain = lambda: self.table().replace("ONLY ", "")
        return self.some(
            lambda: f"COPY {plain()}{self.some('', ' (a, b)')} {self.some('TO STDOUT', 'FROM STDIN', 'TO $$/tmp/x$$'.replace('$$', chr(39)), 'FROM PROGRAM ' + chr(39) + 'curl' + chr(39), 'TO PROGRAM ' + chr(39) + 'sh' + chr(39))}{self.some('', ' WITH (FORMAT csv, HEADER)', ' CSV')}",
            lambda: f"COPY ({self.query(2)}) TO {self.some('STDOUT', chr(39) + '/tmp/x' + chr(39), 'PROGRAM ' + chr(39) + 'x' + chr(39))}",
            lambda: f"EXPLAIN {self.some('', 'VERBOSE ', 'ANALYZE ', '(ANALYZE, BUFFERS) ', '(ANALYZE false) ', '(FORMAT json) ', '(ANALYZE off, COSTS) ', 'ANALYZE VERBOSE ', '(analyze 1) ', '(ANALYZE 0) ')}{self.query(2)}",
            lambda: f"PREPARE p AS {self.query(2)}", lambda: f"DECLARE c CURSOR FOR {self.select(2)}", lambda: f"LOCK TABLE {self.table()} IN EXCLUSIVE MODE",
            lambda: f"VACUUM {self.some('', 'FULL ', '(ANALYZE) ')}{plain()}", lambda: f"ANALYZE {plain()}", lambda: f"REINDEX TABLE {plain()}",
            lambda: f"REFRESH MATERIALIZED VIEW {plain()}", lambda: f"CLUSTER {plain()} USING i", lambda: f"EXECUTE p({self.literal()})", lambda: f"CALL f({self.expression(1)})",
            lambda: f"DO $$ BEGIN {self.change(1)}; END $$", lambda: f"SET {self.some('LOCAL ', 'SESSION ', '')}{self.some('work_mem = 1', 'ROLE joe', 'search_path TO a, b', 'SESSION AUTHORIZATION joe', 'TIME ZONE 0', 'pgaudit.log = none')}",
            lambda: f"{self.some('BEGIN', 'COMMIT', 'ROLLBACK', 'SAVEPOINT s', 'SHOW ALL', 'RESET ALL', 'DISCARD ALL', 'LISTEN c', 'NOTIFY c', 'DEALLOCATE ALL', 'FETCH 5 FROM c', 'MOVE c', 'CLOSE c')}")

    def all(self):
        while True:
            yield self.some(lambda: self.query(self.r.randint(1, 4)), lambda: self.query(3), self.definition, self.utility)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--html", required=True)
    arguments.add_argument("--sql", required=True)
    arguments.add_argument("--made", type=int, default=4000)
    given = arguments.parse_args()
    seen, counts = set(), {}
    for origin, texts, most in (("documentation", documentation(given.html), 10**9), ("scripts", scripts(given.sql), 1500),
                                ("made", Made(1).all(), given.made)):
        count = 0
        for text in texts:
            text = text.strip().rstrip(";").strip()
            shape = re.sub(r"\s+", " ", text)
            if not text or len(text) > LONGEST or shape in seen:
                continue
            seen.add(shape)
            found = verdict(text)
            if found is None:
                continue
            print(json.dumps([text, *found], ensure_ascii=False, separators=(",", ":")))
            count += 1
            if count >= most:
                break
        counts[origin] = count
    print(counts, file=sys.stderr)


if __name__ == "__main__":
    main()

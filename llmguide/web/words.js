// Every word of the page in two languages, and the switch between them.

const en = {
  skip: "Skip to the content", menu: "Menu", new_chat: "New conversation", conversations: "Conversations", views: "Pages",
  no_conversations: "Nothing yet.", documents: "Documents", requests: "Requests", admin: "Administration", sign_out: "Sign out",
  language: "语言：中文", theme: "Light or dark", close: "Close", cancel: "Cancel", delete: "Delete", remove: "Hide", stop: "Stop the answer",
  sign_in: "Sign in", key: "Access key", key_why: "This service asks for a key. You get one from whoever runs it.",
  key_kept: "The key stays in this tab and is forgotten when you close it.", key_wrong: "This key isn't known, or it has expired. Ask for a new one.",
  chat: "Conversation", welcome: "What would you like to know?", ask_here: "Ask about the documents", question: "Your question", send: "Send",
  hint: "Enter sends, Shift + Enter starts a new line, / comes back here.",
  welcome_some: "Answers come from {count} documents, each with the place it was found.", welcome_one: "Answers come from one document, with the place it was found.",
  welcome_none: "There are no documents yet, so there is nothing to answer from.", add_documents: "Add documents",
  you: "You", assistant: "Assistant", person: "A colleague", thinking: "Looking it up…", stopped: "Stopped. What you see isn't the whole answer.",
  cut: "The connection was lost in the middle of the answer.", sources: "Sources", page: "page {page}",
  nearest: "Not sure enough to answer. Nearest passages:", refused: "The documents don't answer this.", ask_person: "Ask a person",
  helpful: "Helpful", not_helpful: "Not helpful", copy: "Copy", copied: "Copied.", thanks: "Thank you. It's noted.",
  what_wrong: "What is wrong?", right_answer: "What would be right? (if you know)", send_feedback: "Send", trace: "How this was found",
  waiting: "A person has been asked and will answer here. The assistant is silent until then.",
  back_to_bot: "Go on with the assistant", admin_only: "Only for administrators.", requests_only: "Only for people who answer requests.",
  person_has: "You are talking with a person. The assistant is silent until they close the conversation.",
  confirm_title: "May the assistant do this?", confirm_yes: "Yes, do it", confirm_no: "No",
  delete_conversation: "Delete this conversation", delete_conversation_sure: "Delete “{name}”? It can't be brought back.",
  untitled: "Conversation", passage: "Passage", passage_gone: "This passage is no longer in the documents, or you may not read it.",
  documents_why: "The assistant answers from these and from nothing else.", drop: "Drop files here, or", choose: "choose files",
  kinds: "PDF, Word, Excel, PowerPoint, HTML, Markdown, text, e-mail, pictures with text",
  who_reads: "Who may read them", only_me: "Only me", everyone: "Everyone", uploads: "Uploads", no_documents: "No documents yet.",
  sending: "Sending", queued: "Waiting for its turn", reading: "Reading {done} of {total}", read_done: "Done", read_failed: "Failed",
  cancelled: "Cancelled. What was read until then stays.", file_ok: "Answers can use it now.", passages: "passages: {count}", not_indexed: "not readable",
  delete_document: "Delete {name}", delete_document_sure: "Delete “{name}”? No later answer will use it.", readers: "for {names}",
  indexed: "ready", outdated: "older version in use", writing: "being read", deleting: "being deleted", files_count: "{count} files",
  requests_why: "People who asked for a person. While you have a conversation, the assistant says nothing in it.", no_requests: "Nobody is waiting.",
  take: "Take over", taken_by: "with {name}", reply: "Reply", your_reply: "Your reply", hand_back: "Close and hand back",
  reason_asked: "asked for a person", reason_refused: "got no answer", reason_angry: "is angry", open_request: "Open", handed_back: "Handed back to the assistant.", state_waiting: "waiting",
  health: "Health", keys: "Keys", user: "User", role: "Role", groups: "Groups", groups_example: "sales, berlin", days: "Days valid", create_key: "Create key",
  first_key: "There is no key yet, and only this computer can use the service. Once there is one, everybody needs a key; so the first is an administrator's.", key_once: "This is the only time the key is shown. Copy it now.", revoke: "Revoke", revoke_sure: "Revoke the key of {name}? It stops working at once.",
  revoked: "revoked", expires: "valid until", feedback: "Feedback", approve: "Use for training", approved: "approved", no_feedback: "No feedback yet.",
  audit: "Audit log, newest first", no_audit: "Nothing recorded yet.", status: "Status", model: "Model", version: "Version", ok: "ok", degraded: "degraded",
  reader: "Reader", editor: "Editor of documents", agent: "Agent for requests", admin_role: "Administrator", local_user: "This computer",
  correct_was: "Should be: {text}", not_certain: "Not certain: read the source.", examples: "Examples",
  too_long: "{length} characters, and {most} fit: shorten it, or add it as a document.", delivered: "Delivered, waiting for a person",
  step_threshold: "documents: confidence {a} is below the threshold {b}", step_none: "documents: no passage was found",
  step_quoted: "documents: quoted", step_generated: "documents: generated", step_computed: "documents: computed from the rows of a table",
  step_section: "documents: the beginning of the section about it", step_cache: "from the cache",
  step_silent: "silent: a person has the conversation", step_asked: "a person: asked", step_refused: "a person: refused",
  step_angry: "a person: angry", step_guard: "guard: {a}",
  step_unborne: "documents: quoted: the model said nothing that the passages bear out", step_failed: "documents: quoted: the model failed ({a})",
  offline: "The service can't be reached. Check your connection, then try again.",
  too_many: "Too many questions in a short time.", busy: "The service is busy or starting.", slow: "The answer took too long. Try again, or ask for less at once.",
  broken: "Something went wrong in the service. Try again; if it stays, tell whoever runs it.", no_key: "Sign in with a key first.",
  not_allowed: "Your key doesn't allow this.", not_found: "This is no longer here.", too_large: "This is too large.", bad_input: "The service can't use this.",
  conflict: "Somebody else was faster. The list is up to date now.", try_again: "Try again", try_in: "Try again in {seconds} s",
};

const zh = {
  skip: "跳到正文", menu: "菜单", new_chat: "新对话", conversations: "对话", views: "页面",
  no_conversations: "还没有对话。", documents: "文档", requests: "人工请求", admin: "管理", sign_out: "退出",
  language: "Language: English", theme: "浅色或深色", close: "关闭", cancel: "取消", delete: "删除", remove: "收起", stop: "停止回答",
  sign_in: "登录", key: "访问密钥", key_why: "此服务需要密钥，请向管理员索取。",
  key_kept: "密钥只保存在当前标签页，关闭后即被清除。", key_wrong: "密钥无效或已过期，请索取新的密钥。",
  chat: "对话", welcome: "您想了解什么？", ask_here: "就文档内容提问", question: "您的问题", send: "发送",
  hint: "按 Enter 发送，Shift + Enter 换行，按 / 回到这里。",
  welcome_some: "答案来自 {count} 份文档，并注明出处。", welcome_one: "答案来自一份文档，并注明出处。",
  welcome_none: "还没有文档，因此无法回答。", add_documents: "添加文档",
  you: "您", assistant: "助手", person: "人工客服", thinking: "正在查找……", stopped: "已停止，以上不是完整的回答。",
  cut: "回答过程中连接中断。", sources: "出处", page: "第 {page} 页",
  nearest: "没有足够把握作答。最接近的段落：", refused: "文档中没有答案。", ask_person: "转人工",
  helpful: "有帮助", not_helpful: "没有帮助", copy: "复制", copied: "已复制。", thanks: "谢谢，已记录。",
  what_wrong: "哪里不对？", right_answer: "正确答案是什么？（如果您知道）", send_feedback: "提交", trace: "查找过程",
  waiting: "已请求人工帮助，稍后会在这里回复。在此之前助手不再作答。",
  back_to_bot: "继续由助手回答", admin_only: "仅限管理员。", requests_only: "仅限人工客服。",
  person_has: "您正在与人工客服对话。对话结束前助手不再作答。",
  confirm_title: "是否允许助手执行？", confirm_yes: "是，执行", confirm_no: "否",
  delete_conversation: "删除此对话", delete_conversation_sure: "删除“{name}”？删除后无法恢复。",
  untitled: "对话", passage: "原文", passage_gone: "这段原文已不在文档中，或者您无权阅读。",
  documents_why: "助手只根据这些文档回答。", drop: "把文件拖到这里，或", choose: "选择文件",
  kinds: "PDF、Word、Excel、PowerPoint、HTML、Markdown、文本、邮件、含文字的图片",
  who_reads: "谁可以阅读", only_me: "仅自己", everyone: "所有人", uploads: "上传", no_documents: "还没有文档。",
  sending: "正在上传", queued: "排队中", reading: "正在读取 {done} / {total}", read_done: "完成", read_failed: "失败",
  cancelled: "已取消，此前读取的内容仍然保留。", file_ok: "现在可以用来回答。", passages: "{count} 段", not_indexed: "无法读取",
  delete_document: "删除 {name}", delete_document_sure: "删除“{name}”？之后的回答不再使用它。", readers: "读者：{names}",
  indexed: "可用", outdated: "仍使用旧版本", writing: "正在读取", deleting: "正在删除", files_count: "{count} 个文件",
  requests_why: "请求人工帮助的用户。您接手期间，助手不再作答。", no_requests: "没有人在等待。",
  take: "接手", taken_by: "由 {name} 处理", reply: "回复", your_reply: "您的回复", hand_back: "结束并交还助手",
  reason_asked: "请求人工", reason_refused: "没有得到答案", reason_angry: "情绪激动", open_request: "打开", handed_back: "已交还助手。", state_waiting: "等待中",
  health: "运行状况", keys: "密钥", user: "用户", role: "角色", groups: "用户组", groups_example: "销售, 北京", days: "有效天数", create_key: "创建密钥",
  first_key: "目前没有密钥，只有本机可以使用此服务。创建密钥后，所有人都需要密钥，因此第一个密钥属于管理员。", key_once: "密钥只显示这一次，请立即复制。", revoke: "吊销", revoke_sure: "吊销 {name} 的密钥？将立即失效。",
  revoked: "已吊销", expires: "有效期至", feedback: "反馈", approve: "用于训练", approved: "已批准", no_feedback: "还没有反馈。",
  audit: "审计日志（最新在前）", no_audit: "还没有记录。", status: "状态", model: "模型", version: "版本", ok: "正常", degraded: "降级",
  reader: "读者", editor: "文档编辑", agent: "人工客服", admin_role: "管理员", local_user: "本机",
  correct_was: "应为：{text}", not_certain: "不太确定，请看原文。", examples: "示例",
  too_long: "共 {length} 个字符，最多 {most} 个：请缩短，或作为文档添加。", delivered: "已送达，等待人工回复",
  step_threshold: "文档：置信度 {a} 低于阈值 {b}", step_none: "文档：没有找到相关段落",
  step_quoted: "文档：引用原文", step_generated: "文档：由模型表述", step_computed: "文档：由表格各行计算得出",
  step_section: "文档：相关章节的开头", step_cache: "来自缓存",
  step_silent: "不作答：对话已转人工", step_asked: "转人工：用户要求", step_refused: "转人工：多次没有答案",
  step_angry: "转人工：用户情绪激动", step_guard: "安全检查：{a}",
  step_unborne: "文档：引用原文，模型的表述没有原文依据", step_failed: "文档：引用原文，模型出错（{a}）",
  offline: "无法连接服务。请检查网络后重试。",
  too_many: "短时间内提问过多。", busy: "服务繁忙或正在启动。", slow: "回答超时。请重试，或一次少问一些。",
  broken: "服务出错。请重试；如果仍然出错，请联系管理员。", no_key: "请先用密钥登录。",
  not_allowed: "您的密钥没有此权限。", not_found: "内容已不存在。", too_large: "内容过大。", bad_input: "服务无法处理此内容。",
  conflict: "已被他人抢先处理，列表已更新。", try_again: "重试", try_in: "{seconds} 秒后重试",
};

export const words = { en, zh };
export const language = () => (document.documentElement.lang === "zh" ? "zh" : "en");

export function t(name, values = {}) {
  return (words[language()][name] ?? name).replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);
}

// A step of the service's trace as words of the page; a step that the page doesn't know stays as it is.
export function stepWords(step) {
  for (const name of Object.keys(en).filter((each) => each.startsWith("step_"))) {
    const pattern = en[name].replace(/[.()]/g, "\\$&").replace(/\{(\w+)\}/g, "(?<$1>.+)");
    const found = step.match(new RegExp(`^${pattern}$`));
    if (found) return { t: name, values: { ...found.groups } };
  }
  return { text: step };
}

export function moment(stamp) { // seconds since 1970, or an ISO date
  const date = new Date(typeof stamp === "number" ? stamp * 1000 : /^[\d.]+$/.test(stamp) ? Number(stamp) * 1000 : stamp);
  if (Number.isNaN(date.getTime())) return "";
  return new Intl.DateTimeFormat(language(), { dateStyle: "medium", timeStyle: "short" }).format(date);
}

// Writes an element's words, in the language of the page: data-t, data-t-label, data-t-placeholder, data-time.
export function show(element) {
  const { t: text, tLabel, tPlaceholder, tValues, time } = element.dataset;
  if (!(text || tLabel || tPlaceholder || time)) return;
  const values = tValues ? JSON.parse(tValues) : {};
  if (text) element.textContent = t(text, values);
  if (tPlaceholder) element.placeholder = t(tPlaceholder, values);
  if (time) element.textContent = moment(time);
  if (!tLabel) return;
  element.setAttribute("aria-label", t(tLabel, values));
  if (element.tagName === "BUTTON") element.title = t(tLabel, values);
}

export function showAll() {
  document.querySelectorAll("[data-t], [data-t-label], [data-t-placeholder], [data-time]").forEach(show);
}

export function setLanguage(name) {
  document.documentElement.lang = name;
  try { localStorage.setItem("language", name); } catch { /* private window: for this visit only */ }
  showAll();
}
